"""`python -m paper_repro` is the command `paper-repro`."""

from paper_repro.cli import main

if __name__ == "__main__":
    main()
