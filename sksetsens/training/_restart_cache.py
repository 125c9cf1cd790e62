"""Restarts on disk, each under a key of all that its weights depend on.

A file holds arrays and JSON, nothing that executes. It appears whole or not at all: a
kill loses the restart that was running, and concurrent writers replace each other's
equal files.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import uuid
import warnings
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np
import sklearn
import skorch
import torch
from joblib import Memory

from .._validation import user_stacklevel
from .._version import __version__
from ..objective import Kinks
from ..optimize import Polished
from ..sets import read_arrays, write_arrays
from ._fingerprint import UnstableValueError, fingerprint
from ._held_out import FixedSplit
from ._restart import Restart, RestartTask

__all__ = ["RestartCache"]

_KIND = "Restart"
# Raised when the meaning of a file or of its key changes.
_FORMAT = 3
# Parameters of a net that are overridden by every restart, or that change no weight.
_WITHOUT_EFFECT = {"train_split", "verbose", "warm_start"}


@dataclass(frozen=True)
class RestartCache:
    """Files of the restarts of one task.

    Attributes
    ----------
    folder : str
        Absolute.
    task_key : str
        Digest of the task, to which a seed makes the key of a restart.
    """

    folder: str
    task_key: str

    @classmethod
    def of(
        cls,
        memory: str | os.PathLike[str] | Memory | None,
        task: RestartTask,
        kind: str,
    ) -> RestartCache | None:
        """The task's cache; None where none is wanted, or none can be trusted.

        Parameters
        ----------
        memory : str, path, joblib.Memory or None
        task : RestartTask
        kind : {"joblib", "vectorized"}
            How it trains: the two differ by rounding.

        Warns
        -----
        UserWarning
            If a parameter of the net has no digest that is the same in every process.
        """
        location = memory.location if isinstance(memory, Memory) else memory
        if location is None:
            return None
        folder = os.path.join(os.path.abspath(location), "sksetsens", "restarts")
        try:
            return cls(folder, _task_key(task, kind))
        except UnstableValueError as error:
            warnings.warn(
                f"The restarts are not cached, although memory={memory!r}: {error}. "
                "Give the net parameters that are numbers, strings, arrays, classes or "
                "functions, or pass memory=None to silence this.",
                UserWarning,
                stacklevel=user_stacklevel(),
            )
            return None

    def path(self, seed: int) -> str:
        """File of the restart from ``seed``."""
        key = fingerprint((self.task_key, seed))
        return os.path.join(self.folder, f"{key}.npz")

    def load(self, seed: int) -> Restart | None:
        """The restart from ``seed``; None, with a warning where a file is damaged."""
        path = self.path(seed)
        try:
            kind, arrays = read_arrays(path)
            if kind != _KIND:
                raise ValueError(f"{path} holds a {kind}.")
            return replace(_from_arrays(arrays, seed), cached=True, n_tries=0)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            if isinstance(error, NotADirectoryError):
                return None  # Told when writing fails.
            warnings.warn(
                f"The cached restart {path} cannot be read ({type(error).__name__}) "
                "and is trained anew. Delete the file if that does not replace it.",
                UserWarning,
                stacklevel=user_stacklevel(),
            )
            return None

    def store(self, restart: Restart) -> Restart:
        """Write a successful restart; returned with the reason if it cannot be."""
        if restart.error:
            return restart
        path = self.path(restart.seed)
        partial = f"{path}.{os.getpid()}.{uuid.uuid4().hex}.partial"
        try:
            os.makedirs(self.folder, exist_ok=True)
            write_arrays(partial, _KIND, _to_arrays(restart))
            os.replace(partial, path)
        except (OSError, TypeError, ValueError) as error:
            with contextlib.suppress(OSError):
                os.remove(partial)
            return replace(restart, unsaved=f"{type(error).__name__}: {error}")
        return restart

    def holds(self, seed: int) -> bool:
        """Whether there is a file for ``seed``."""
        return os.path.exists(self.path(seed))


# Keys ---------------------------------------------------------------------------------


def _task_key(task: RestartTask, kind: str) -> str:
    """Digest of all that the weights of a task's restarts depend on, but the seed."""
    net = task.estimator
    params = {**net.get_params(deep=False), **task.params}
    digests = [_named_digest("estimator", type(net))]
    for name in sorted(set(params) - _WITHOUT_EFFECT):
        digests.append(_named_digest(f"estimator__{name}", params[name]))
    versions = (__version__, torch.__version__, skorch.__version__, np.__version__)
    return fingerprint(
        (
            _FORMAT,
            [str(version) for version in (*versions, sklearn.__version__)],
            sys.version_info[:2],
            str(torch.get_default_dtype()),
            kind,
            digests,
            [task.X, task.y, task.sample_weight, _split_of(task), repr(task.layout)],
            [task.X_net.dtype.str, task.y_net.dtype.str],
            # Weights as trained do not depend on the tolerance of polishing.
            float(task.tol) if task.polish else None,
        )
    )


def _split_of(task: RestartTask) -> Any:
    """What tells splits apart."""
    if isinstance(task.split, FixedSplit):
        return [task.split.train_rows, task.split.held_out]
    return _named_digest("estimator__train_split", task.split)


def _named_digest(name: str, value: Any) -> tuple[str, str]:
    try:
        return name, fingerprint(value)
    except UnstableValueError as error:
        raise UnstableValueError(
            f"the parameter {name!r} holds {error}, which cannot be recognised in "
            "another process"
        ) from error


# Files --------------------------------------------------------------------------------


def _to_arrays(restart: Restart) -> dict[str, Any]:
    if restart.polished is None:
        raise ValueError("a restart without weights")
    polished = asdict(restart.polished)
    weights, kinks = polished.pop("weights"), polished.pop("kinks")
    record = {
        "seed": restart.seed,
        "duration": restart.duration,
        "backend": restart.backend,
        "history": restart.history,
        "trainable": restart.trainable,
        "polished": polished,
    }
    states = {f"state/{name}": value for name, value in restart.state.items()}
    return {
        "record": np.array(json.dumps(record, default=_plain)),
        "weights": weights,
        **{f"kinks/{name}": np.asarray(value) for name, value in kinks.items()},
        **states,
    }


def _plain(value: Any) -> Any:
    """What callbacks of a net write into its history, as JSON has it."""
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().numpy()
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise TypeError(f"the net's history holds a {type(value).__name__}")


def _from_arrays(arrays: dict[str, Any], seed: int) -> Restart:
    record = json.loads(str(arrays["record"]))
    if record["seed"] != seed:
        raise ValueError(f"The file belongs to the seed {record['seed']}.")
    names = [name for name in arrays if name.startswith("state/")]
    kinks = {field.name: arrays[f"kinks/{field.name}"] for field in fields(Kinks)}
    kinks["n_dead_units"] = int(kinks["n_dead_units"])
    return Restart(
        seed,
        record["duration"],
        state={name.removeprefix("state/"): arrays[name] for name in names},
        history=record["history"],
        trainable=tuple(record["trainable"]),
        polished=Polished(
            arrays["weights"], **record["polished"], kinks=Kinks(**kinks)
        ),
        backend=record["backend"],
    )
