"""Accuracy intervals, bootstrap, balanced accuracy and paired drops.

- one file: `intervals`, `balanced` accuracy, `bootstrap` over groups, `recordings` of windows
- two files on the same samples: `paired`
- what a test part can show: `resolution`; a threshold for "none of these": `rejection`; whether
  probabilities say how often predictions are right: `calibration`
"""
