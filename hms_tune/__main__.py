"""``python -m hms_tune``."""

from hms_tune.cli.main import main

if __name__ == "__main__":
    main()
