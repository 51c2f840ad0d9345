"""The hospital simulator behind `dicomnode demo`."""
