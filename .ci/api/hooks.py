"""What schemathesis is told about this API beyond its description.

Names: a made-up name mostly leads to a 404, so every second one is replaced by one that is there.

Event streams: they do not end, so reading a whole answer would wait for ever. Of such an answer the first
event is read, and then the connection is closed, as a browser tab is.
"""

import zlib

import requests.adapters
import schemathesis

NAMES = {"job": ["standing", "ending"], "topic": ["orders"]}
# At most so much of a stream is read while looking for its first event.
STREAM_BYTES_MAX = 1 << 20


def half(name, value):
    """A known name for every second made-up one; the same for the same, so that runs can be repeated."""
    known = NAMES.get(name)
    at = zlib.crc32(repr(value).encode("utf-8", "backslashreplace"))
    if known is None or at % 2 == 0:
        return value
    return known[at // 2 % len(known)]


@schemathesis.hook
def map_path_parameters(context, path_parameters):
    if path_parameters:
        for name in path_parameters:
            # `standing` is asked at the end whether its numbers are right; it must not be ended.
            ends = context.operation.method.upper() == "DELETE"
            value = half(name, path_parameters[name])
            path_parameters[name] = "ending" if ends and value == "standing" else value
    return path_parameters


@schemathesis.hook
def map_query(context, query):
    if query and "job" in query:
        job = query["job"]
        query["job"] = [half("job", one) for one in job] if isinstance(job, list) else half("job", job)
    return query


@schemathesis.serializer("application/x-ndjson")
def as_lines(context, value):
    """Records as they come: whatever text was made up is sent as it is, good lines or not."""
    return value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogatepass")


send = requests.adapters.HTTPAdapter.send


def send_and_read_one_event(self, *args, **kwargs):
    response = send(self, *args, **kwargs)
    if response.headers.get("content-type", "").startswith("text/event-stream"):
        content = b""
        while b"\nevent: " not in content or not content.endswith(b"\n\n"):
            byte = response.raw.read(1)
            if not byte or len(content) > STREAM_BYTES_MAX:
                break
            content += byte
        response._content = content
        response._content_consumed = True
        response.raw.close()
    return response


requests.adapters.HTTPAdapter.send = send_and_read_one_event
