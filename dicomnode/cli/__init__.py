"""The `dicomnode` command: reads the settings, wires the parts, starts the processes."""


def main() -> None:
    """Run the command line."""
