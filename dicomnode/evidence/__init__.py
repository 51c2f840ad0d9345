"""Result encoders: one file each, found by walking the package."""
