"""`python -m lepton_automl` is `lepton`."""

from lepton_automl.commands import main

if __name__ == "__main__":
    main()
