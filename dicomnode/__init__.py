"""dicomnode: a node beside the PACS that analyzes arriving studies and reports what it found as DICOM."""

__version__ = "0.1.0"
