"""An SSH server on localhost that runs what it is asked to, for tests."""

import asyncio
import contextlib
import os
import signal
import threading

import asyncssh


class Open(asyncssh.SSHServer):
    """Lets anybody in; it listens on localhost only, for as long as a test runs."""

    def begin_auth(self, username):  # noqa: ARG002 - asyncssh's
        return False


async def _run(process):
    """Run a command in a shell, until it ends or its client goes away."""
    child = await asyncio.create_subprocess_shell(
        process.command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    await process.redirect(stdout=child.stdout, stderr=child.stderr)
    gone = asyncio.ensure_future(process.wait_closed())
    ended = asyncio.ensure_future(child.wait())
    await asyncio.wait({gone, ended}, return_when=asyncio.FIRST_COMPLETED)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    process.exit(await ended)
    await gone


@contextlib.contextmanager
def ssh_server(known_hosts):
    """Start a server in a thread; yields its port. Its key is written to a file."""
    key = asyncssh.generate_private_key("ssh-ed25519")
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    def do(coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result(30)

    async def listen():
        return await asyncssh.create_server(
            Open, "127.0.0.1", 0, server_host_keys=[key], process_factory=_run
        )

    async def stop():
        server.close()
        await server.wait_closed()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.wait(others, timeout=10) if others else None

    server = do(listen())
    public = key.export_public_key().decode()
    known_hosts.write_text(f"[127.0.0.1]:{server.get_port()} {public}")
    try:
        yield server.get_port()
    finally:
        do(stop())
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
