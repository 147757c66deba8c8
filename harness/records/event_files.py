"""TensorBoard's event files: numbers by step, text, pictures, and a run's line in its table of hyperparameters.

Written with the package tensorboard alone. tensorboardX is not used: it imports torch wherever that is installed, and
its hyperparameters always end with success.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

MISSING = "needs the package tensorboard: pip install 'harness[tensorboard]'"


def installed() -> bool:
    """Return whether the package that writes event files is installed."""
    return find_spec("tensorboard") is not None


class EventFile:
    """One file of events in a folder; TensorBoard takes a folder with such files for a run."""

    def __init__(self, folder: Path) -> None:
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._writer = EventFileWriter(str(folder))

    def restart(self, step: int) -> None:
        """Make TensorBoard discard the events of the folder's earlier files from this step on."""
        from tensorboard.compat.proto.event_pb2 import SessionLog

        self._add(step, session_log=SessionLog(status=SessionLog.START))

    def numbers(self, values: Mapping[str, float], step: int = 0) -> None:
        """Add a point to the curve of each name."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        values_of = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._add(step, summary=Summary(value=values_of))

    def text(self, name: str, markdown: str) -> None:
        """Add a page of Markdown."""
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.plugins.text.metadata import create_summary_metadata
        from tensorboard.util.tensor_util import make_tensor_proto

        page = Summary.Value(
            tag=name,
            tensor=make_tensor_proto([markdown.encode()], shape=(1,)),
            metadata=create_summary_metadata(display_name=None, description=None),
        )
        self._add(0, summary=Summary(value=[page]))

    def picture(self, name: str, png: bytes) -> None:
        """Add a picture."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        width, height = struct.unpack(">II", png[16:24])  # from IHDR, the first block of a PNG
        image = Summary.Image(width=width, height=height, colorspace=4, encoded_image_string=png)
        self._add(0, summary=Summary(value=[Summary.Value(tag=name, image=image)]))

    def hyperparameters(self, settings: Mapping[str, Any], status: str | None) -> None:
        """Add the folder to the table of hyperparameters: its settings, and its status at the end."""
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.plugins.hparams import summary_v2
        from tensorboard.plugins.hparams.api_pb2 import Status
        from tensorboard.plugins.hparams.metadata import SESSION_END_INFO_TAG, create_summary_metadata
        from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo

        now = time.time()
        plain = {key: value if isinstance(value, (bool, int, float)) else str(value) for key, value in settings.items()}
        self._add(0, summary=summary_v2.hparams_pb(plain, start_time_secs=now))
        ended = SessionEndInfo(
            status=Status.STATUS_SUCCESS if status == "ok" else Status.STATUS_FAILURE, end_time_secs=now
        )
        end = Summary.Value(
            tag=SESSION_END_INFO_TAG, metadata=create_summary_metadata(HParamsPluginData(session_end_info=ended))
        )
        self._add(0, summary=Summary(value=[end]))

    def close(self) -> None:
        """Write what is still in memory."""
        self._writer.close()

    def _add(self, step: int, **content: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self._writer.add_event(Event(wall_time=time.time(), step=step, **content))
