"""`python -m diva_grpo`: the `diva` command."""

from diva_grpo.flows.cli import main

if __name__ == "__main__":
    main()
