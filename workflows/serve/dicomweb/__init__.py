"""DICOMweb (PS3.18) on an archive: QIDO-RS, WADO-RS and STOW-RS below ``/dicom-web``."""
