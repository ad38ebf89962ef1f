"""The page: tabs over one model, and the settings that make it safe to show.

What needs torch is imported when a page is built or a model opened, so that importing this module stays quick.
"""

import ipaddress
from typing import Any

import gradio as gr

from synthcxr.demo.about import about_tab
from synthcxr.demo.audit import audit_tab
from synthcxr.demo.compare import compare_tab
from synthcxr.demo.dataset import dataset_tab
from synthcxr.demo.generate import generate_tab
from synthcxr.demo.studio import CACHE_AGE, CACHE_CHECKED, Studio
from synthcxr.demo.style import CSS, theme
from synthcxr.demo.turns import WAITING
from synthcxr.errors import ConfigError, RunError

HEAD = """
<div id="head"><h1>synthcxr</h1><p>Synthetic chest radiographs from a text prompt.</p>
<span class="badge">Research only. Not for diagnosis.</span></div>
"""


def build(model: str | None = None) -> gr.Blocks:
    """The page over one model (None: the embedded one); the model is opened at the first request."""
    with gr.Blocks(analytics_enabled=False, title="synthcxr", delete_cache=(CACHE_CHECKED, CACHE_AGE)) as page:
        # In gradio's own cache, files are served as they are and are deleted when they are old.
        studio = Studio(model, page.GRADIO_CACHE)
        drawn = gr.State([], time_to_live=CACHE_AGE)
        # One event at a time uses the model, whichever tab it comes from: the studio's line sees to that, since what
        # waits in gradio's own queue can be told nothing and can't be taken back by the server.
        exclusive: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": None}
        gr.HTML(HEAD)
        with gr.Tab("Generate"):
            generate_tab(studio, drawn, exclusive)
        with gr.Tab("Compare"):
            compare_tab(studio, exclusive)
        with gr.Tab("Dataset"):
            dataset_tab(studio, exclusive)
        with gr.Tab("Audit"):
            audit_tab(studio, drawn, exclusive)
        with gr.Tab("About"):
            about_tab(studio)
    return page.queue(max_size=WAITING, default_concurrency_limit=1)


def launch(
    model: str | None = None, port: int = 7860, host: str = "127.0.0.1", auth: str | None = None, block: bool = True
) -> gr.Blocks:
    """Serve the page, by default to this machine alone.

    Args:
        host: address to listen on; any other than loopback needs `auth`.
        auth: "user:password", asked of whoever opens the page.
        block: wait until it's interrupted; False returns at once (`close()` ends it).
    Raises:
        ConfigError: other machines could reach it without a password, or `auth` isn't of that form.
        RunError: the port is taken.
    """
    user, _, password = (auth or "").partition(":")
    if auth is not None and not (user and password):
        raise ConfigError("SYNTHCXR_DEMO_AUTH must be user:password")
    if auth is None and not is_loopback(host):
        raise ConfigError(f"host = {host!r} lets other machines in; set SYNTHCXR_DEMO_AUTH=user:password")
    page = build(model)
    try:
        page.launch(
            server_name=host, server_port=port, share=False, ssr_mode=False, strict_cors=True, show_error=False,
            allowed_paths=[], max_file_size="1mb", enable_monitoring=False, footer_links=[], theme=theme(), css=CSS,
            auth=(user, password) if auth else None, state_session_capacity=256, mcp_server=False, pwa=False,
            prevent_thread_lock=not block, quiet=not block,
        )  # fmt: skip
    except OSError as error:
        raise RunError(f"can't listen on {host}, port {port}; give another --port") from error
    return page


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens there."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
