"""A server of OpenAI's protocol on this machine that misbehaves as it is told to."""

import asyncio
import json
import threading


class FakeServer:
    """Answers each request with the next of some scripted responses, and with a completion after them.

    A response is (status, headers, body), a number of seconds to wait before a completion, None, for which
    the connection is closed after half an answer, or a function from the request to one of these.
    """

    def __init__(self, port: int = 0):
        """Serve at a port, by default any free one."""
        self.script = []
        self.requests = []
        self.headers = []
        self.together = self.most_together = 0
        self.delay = 0.0
        self.models = ["only"]
        self.listings = []  # scripted responses to /models
        self._port = port
        self._loop = asyncio.new_event_loop()
        started = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(started,))
        self._thread.start()
        started.wait()

    def stop(self):
        """Die: no connection is accepted any more."""
        self._loop.call_soon_threadsafe(self._loop.stop)

    def close(self):
        if self._thread.is_alive():
            self.stop()
        self._thread.join()

    def _run(self, started):
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", self._port))
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        started.set()
        self._loop.run_forever()
        server.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0.01))
        self._loop.close()

    async def _serve(self, reader, writer):
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                lines = head.decode().split("\r\n")
                fields = {
                    key.lower(): value for key, value in (line.split(": ", 1) for line in lines[1:] if line)
                }
                body = await reader.readexactly(int(fields.get("content-length", 0)))
                if "/models" in lines[0]:
                    listed = json.dumps({"data": [{"id": name} for name in self.models]})
                    answer = self.listings.pop(0) if self.listings else (200, {}, listed)
                else:
                    answer = await self._answer(json.loads(body), fields)
                self._write(writer, answer)
                await writer.drain()
                if answer is None:
                    break
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def _answer(self, question, fields):
        self.requests.append(question)
        self.headers.append(fields)
        self.together += 1
        self.most_together = max(self.most_together, self.together)
        try:
            scripted = self.script.pop(0) if self.script else self.delay
            if callable(scripted):
                scripted = scripted(question)
            if not isinstance(scripted, float):
                return scripted
            await asyncio.sleep(scripted)
        finally:
            self.together -= 1
        return 200, {}, completion(f"echo {question['messages'][-1]['content']}")

    @staticmethod
    def _write(writer, answer):
        if answer is None:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{")
            return
        status, headers, text = answer
        lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(text.encode())}"]
        lines += [f"{key}: {value}" for key, value in headers.items()]
        writer.write(("\r\n".join(lines) + "\r\n\r\n" + text).encode())


def completion(text, reason="stop", usage=(7, 3)) -> str:
    counts = {"prompt_tokens": usage[0], "completion_tokens": usage[1]} if usage else None
    choice = {"message": {"role": "assistant", "content": text}, "finish_reason": reason}
    return json.dumps({"choices": [choice], "usage": counts})
