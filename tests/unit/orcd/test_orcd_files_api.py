"""What clients of OpenAI's API may ask of files."""

from __future__ import annotations

from typing import get_args

import msgspec
from openai.types import FileObject, FilePurpose

from rbees.orcd.api.files import PURPOSE


def test_files_of_any_purpose_of_the_api_can_be_asked_for() -> None:
    theirs = {*get_args(FilePurpose), *get_args(FileObject.model_fields["purpose"].annotation)}
    assert "fine-tune" in theirs
    for purpose in theirs:
        assert msgspec.convert(purpose, PURPOSE.type_) == purpose
