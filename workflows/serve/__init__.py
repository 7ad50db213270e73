"""The HTTP server: pictures, files and DICOMweb of one archive, for programs and for people."""
