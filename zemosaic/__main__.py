"""The command line, as ``python -m zemosaic``."""

from .cli import main

if __name__ == "__main__":
    main()
