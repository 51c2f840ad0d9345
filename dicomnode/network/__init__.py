"""Talking DICOM to other application entities, and walking what they send."""
