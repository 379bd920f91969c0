"""`python -m lepton_automl` is `lepton`; modules that take long to load are imported inside."""

from lepton_automl.core.interrupts import exit_on_interrupt


def main() -> None:
    """Run the command line; Ctrl-C while it loads ends it with one message."""
    exit_on_interrupt()
    from lepton_automl.cli.app import main as run_command

    run_command()


if __name__ == "__main__":
    main()
