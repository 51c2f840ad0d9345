"""From a DICOM file to predictions: selection, decoding, preprocessing, bundles, networks."""
