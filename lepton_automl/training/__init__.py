"""One training loop and its parts: loader, augmentation, loss, optimizers, checkpoints."""
