"""`python -m launcher` is the command `launcher`."""

from launcher.cli.main import console

if __name__ == "__main__":
    console()
