"""``/v1/load_lora_adapter`` and ``/v1/unload_lora_adapter``, as vLLM words them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from kronq.serve.bodies_read import read_json
from kronq.serve.fields import LoadFields, UnloadFields, parse_fields

if TYPE_CHECKING:
    from kronq.serve.service import Service


async def load_adapter(request: Request) -> Response:
    """Adds an adapter to the pool."""
    fields = parse_fields(LoadFields, await read_json(request))
    service: Service = request.app.state.service
    await service.catalog.add(fields.lora_name, fields.lora_path, replace=fields.load_inplace)
    return PlainTextResponse(f"Success: LoRA adapter '{fields.lora_name}' added successfully.")


async def unload_adapter(request: Request) -> Response:
    """Removes an adapter from the pool; texts that are being written with it end well."""
    fields = parse_fields(UnloadFields, await read_json(request))
    service: Service = request.app.state.service
    await service.catalog.remove(fields.lora_name)
    return PlainTextResponse(f"Success: LoRA adapter '{fields.lora_name}' removed successfully.")
