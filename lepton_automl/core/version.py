"""The version of the package; `lepton_automl.__version__`."""

__version__ = "0.1.0"
