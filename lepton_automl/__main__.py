"""`python -m lepton_automl` is `lepton`."""

from lepton_automl.cli.app import main

if __name__ == "__main__":
    main()
