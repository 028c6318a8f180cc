"""Checkpoints that are either whole or not there: safetensors, JSON and a manifest of checksums.

A checkpoint is a folder that never changes once it has its name. It is written under a temporary name, every file and
the folder are synced to disk, and one ``rename`` makes it appear. A run keeps several of them::

    checkpoints/
      0007-step-000420/   state.safetensors  state.json  manifest.json
      0008-step-000480/
      last -> 0008-step-000480
      best -> 0007-step-000420

The newest and the best are found by looking at the numbered folders (their serial number, and ``best`` in the
manifest), so nothing depends on the links: they are for people, are replaced atomically, and a file system without
links loses only them. Whatever moment the process or the machine dies at, the previous folders are untouched.
"""

from fieldguide.train.checkpoint.crew import ALONE, Crew
from fieldguide.train.checkpoint.disk import sync_folder
from fieldguide.train.checkpoint.folder import MANIFEST, TENSORS, VALUES, Unconfirmed, save
from fieldguide.train.checkpoint.numbered import Checkpoints, Restored
from fieldguide.train.checkpoint.reading import Manifest, load, read_manifest
from fieldguide.train.checkpoint.stored import Stored, read
from fieldguide.train.checkpoint.tree import Slice, State

__all__ = [
    "ALONE",
    "MANIFEST",
    "TENSORS",
    "VALUES",
    "Checkpoints",
    "Crew",
    "Manifest",
    "Restored",
    "Slice",
    "State",
    "Stored",
    "Unconfirmed",
    "load",
    "read",
    "read_manifest",
    "save",
    "sync_folder",
]
