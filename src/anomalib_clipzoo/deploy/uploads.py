# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Requests to the service: the forms in which an image may come, and what is wrong with others."""

import base64
import binascii
from dataclasses import dataclass
from typing import Any

from fastapi import HTTPException, Request
from starlette.datastructures import UploadFile

PNG = "image/png"
MOST_FIELDS = 8


@dataclass(frozen=True)
class Upload:
    """A request: the content of an image file, and what is wanted of it.

    Attributes:
        content: The file.
        overlay: Whether the answer is to have a picture.
        as_png: Whether the answer is to be that picture alone.
    """

    content: bytes
    overlay: bool = False
    as_png: bool = False


async def read_upload(request: Request) -> Upload:
    """Read a request.

    Raises:
        HTTPException: With a status of 4xx, if it is not understood.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        content, wishes = await _read_form(request)
    elif kind == "application/json":
        content, wishes = await _read_json(request)
    elif kind.startswith("image/") or kind == "application/octet-stream":
        content, wishes = await request.body(), {}
    else:
        raise HTTPException(415, 'Send an image as multipart/form-data, as image/..., or as {"image": base64} in JSON.')
    overlay = str({**request.query_params, **wishes}.get("overlay", "")).lower() in {"1", "true", "yes"}
    return Upload(content, overlay, PNG in request.headers.get("accept", ""))


async def _read_form(request: Request) -> tuple[bytes, dict[str, Any]]:
    async with request.form(max_files=1, max_fields=MOST_FIELDS) as form:
        file = form.get("image")
        if not isinstance(file, UploadFile):
            raise HTTPException(400, 'The form has no file in a field "image".')
        return await file.read(), dict(form)


async def _read_json(request: Request) -> tuple[bytes, dict[str, Any]]:
    try:
        body = await request.json()
        return base64.b64decode(body["image"], validate=True), body
    except (ValueError, TypeError, KeyError, RecursionError, binascii.Error) as error:
        raise HTTPException(400, 'The body is not {"image": base64} in JSON.') from error
