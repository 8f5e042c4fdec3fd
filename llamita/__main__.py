"""`python -m llamita`: the command, if no script of that name is on the path."""

from llamita.cli.main import main

if __name__ == "__main__":
    main()
