"""The program of the child process of `models.untrusted.session`: opens files and runs them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lepton_automl.core.limited_process import Message, serve
from lepton_automl.models.untrusted.onnx_graph import CheckedModel, open_checked
from lepton_automl.models.untrusted.session import extend_for_weights


@dataclass
class _Server:
    """Holds the file that was opened last."""

    opened: CheckedModel | None = None

    def answer(self, request: Message) -> Message:
        """Open the file that the payload holds, or run the open one on the samples in it."""
        fields = request.fields
        if "source" in fields:
            self.opened = None
            source, folder = fields["source"], Path(fields["folder"])
            self.opened = open_checked(
                source, request.payload, folder, on_weights=extend_for_weights
            )
            words = self.opened.words(fields["words"])
            return Message(
                {
                    "shape": self.opened.shape,
                    "classes": self.opened.classes,
                    "dtype": self.opened.dtype.name,
                    "words": words,
                }
            )
        assert self.opened is not None, "a file is opened first"
        shape = self.opened.shape
        samples = np.frombuffer(request.payload, self.opened.dtype).reshape(-1, *shape)
        return Message({}, self.opened.probabilities(samples).tobytes())


def main() -> None:
    """Answer requests until the parent process closes the pipe."""
    serve(_Server().answer)
