"""Which DICOM images must stay exact: those whose pixels are labels, doses or parameters, not a picture."""

from tilevault.archive.formats import SourceImage

__all__ = ["EXACT_CLASSES", "EXACT_MODALITIES", "looks_exact", "never_lossy", "padding_value"]

EXACT_CLASSES = {
    "1.2.840.10008.5.1.4.1.1.66.3": "Deformable Spatial Registration",
    "1.2.840.10008.5.1.4.1.1.66.4": "Segmentation",
    "1.2.840.10008.5.1.4.1.1.66.5": "Surface Segmentation",
    "1.2.840.10008.5.1.4.1.1.66.6": "Tractography Results",
    "1.2.840.10008.5.1.4.1.1.66.7": "Label Map Segmentation",
    "1.2.840.10008.5.1.4.1.1.66.8": "Height Map Segmentation",
    "1.2.840.10008.5.1.4.1.1.67": "Real World Value Mapping",
    "1.2.840.10008.5.1.4.1.1.30": "Parametric Map",
    "1.2.840.10008.5.1.4.1.1.481.2": "RT Dose",
    "1.2.840.10008.5.1.4.1.1.481.3": "RT Structure Set",
    "1.2.840.10008.5.1.4.1.1.481.5": "RT Plan",
    "1.2.840.10008.5.1.4.1.1.481.6": "RT Brachy Treatment Record",
    "1.2.840.10008.5.1.4.1.1.481.8": "RT Ion Plan",
    "1.2.840.10008.5.1.4.1.1.481.23": "Enhanced RT Image",
    "1.2.840.10008.5.1.4.1.1.481.24": "Enhanced Continuous RT Image",
    "1.2.840.10008.5.1.4.1.1.7.1": "Multi-frame Single Bit Secondary Capture",
    "1.2.840.10008.5.1.4.1.1.79.1": "Macular Grid Thickness and Volume Report",
    "1.2.840.10008.5.1.4.1.1.81.1": "Ophthalmic Thickness Map",
    "1.2.840.10008.5.1.4.1.1.82.1": "Corneal Topography Map",
}
"""SOP classes (PS3.4 annex B.5) whose samples are measured or assigned values that programs compute with."""
EXACT_MODALITIES = {
    "SEG": "segmentation",
    "RTDOSE": "dose",
    "RTSTRUCT": "structures",
    "RTPLAN": "plan",
    "REG": "registration",
    "RWV": "real world values",
    "FID": "fiducials",
    "OPTENF": "parameters",
    "OPM": "parameters",
}
"""Modalities of the same, where a SOP class is another one's."""


def never_lossy(image: SourceImage) -> str | None:
    """Why the pixels of an image must not be altered, or None."""
    for file in image.sources:
        if file.format != "dicom" or file.record.get("pixels") is None:
            continue
        name = EXACT_CLASSES.get(str(file.record["uids"].get("class")))
        if name is not None:
            return f"its SOP class is {name}"
        modality = str(file.record["search"].get("Modality") or "")
        if modality in EXACT_MODALITIES:
            return f"its modality is {modality}: {EXACT_MODALITIES[modality]}"
        if file.record["pixels"]["photometric"] == "PALETTE COLOR" or file.record["display"].get("palette"):
            return "its values are indices of a palette"
    return None


def looks_exact(image: SourceImage) -> str | None:
    """Names tell nothing of a DICOM image: always None."""
    return None


def padding_value(image: SourceImage) -> int | None:
    """PixelPaddingValue, where all instances have one and the same: it marks what was not measured.

    As a value of the words' type, whatever sign the attribute was written with.
    """
    info = image.info
    found = {file.record["display"].get("padding") for file in image.sources if file.format == "dicom"}
    if info is None or info.dtype.kind not in "iu" or len(found) != 1:
        return None
    (padding,) = found
    if padding is None:
        return None
    bits = 8 * info.dtype.itemsize
    value = int(padding) & ((1 << bits) - 1)
    return value - (1 << bits) if info.dtype.kind == "i" and value >> (bits - 1) else value
