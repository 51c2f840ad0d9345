"""`python -m dicomnode`: the same as the `dicomnode` command."""

from dicomnode.cli import main

if __name__ == "__main__":
    main()
