"""What is wrong with a request, in one line."""

MOST = 400  # characters


def one_line(text: str) -> str:
  """Printable text of bounded length: parts of it may come from anywhere."""
  text = " ".join(text.encode("utf-8", "replace").decode().split())
  return text if len(text) <= MOST else f"{text[:MOST]}..."


def line(errors: list[dict]) -> str:
  """The first of pydantic's errors: where it is and what was wanted."""
  first = errors[0]
  if first["type"] == "model_attributes_type" and isinstance(first.get("input"), bytes):
    return "the body is not read as JSON: send it with Content-Type: application/json"
  if first["type"] == "json_invalid":
    return f"not valid JSON: {first.get('ctx', {}).get('error', first['msg'])}"
  where = ".".join(str(part)[:60] for part in first["loc"] if part != "body")
  return f"{where}: {first['msg']}" if where else first["msg"]
