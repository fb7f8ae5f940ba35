"""`python -m vlmed` is `vlmed`."""

from vlmed.cli import main

if __name__ == "__main__":
    main()
