"""``python -m fieldguide`` is the command ``fieldguide``."""

from fieldguide.cli import main

if __name__ == "__main__":
    main()
