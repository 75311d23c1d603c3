"""Words about files and batches that are stored and told to clients alike."""

from __future__ import annotations

from typing import Literal

FilePurpose = Literal["batch", "batch_output"]
BatchEnd = Literal["completed", "failed", "expired", "cancelled"]
BatchStatus = Literal["validating", "in_progress", "finalizing", "cancelling", "completed", "failed", "expired", "cancelled"]
