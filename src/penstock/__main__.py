"""``python -m penstock`` is ``penstock``, for machines where it is on no PATH."""

from penstock.cli import app

if __name__ == "__main__":
    app(prog_name="penstock")
