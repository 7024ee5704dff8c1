# Annex in a small image: build stage with uv, then the environment alone, as a user without rights.
# docker build -t annex . && docker run --env-file .env -p 8000:8000 annex
FROM python:3.11-slim AS build
RUN pip install --no-cache-dir uv==0.13.9
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY app app
COPY controllers controllers
COPY db_models db_models
COPY docs docs
COPY supabase supabase
ENV UV_PROJECT_ENVIRONMENT=/annex UV_PYTHON_DOWNLOADS=never UV_COMPILE_BYTECODE=1
RUN uv sync --quiet --no-dev --no-editable

FROM python:3.11-slim
RUN useradd --system --no-create-home --uid 10001 annex
COPY --from=build /annex /annex
ENV PATH=/annex/bin:$PATH PYTHONUNBUFFERED=1
USER 10001
WORKDIR /tmp
EXPOSE 8000
# A worker answers there, too: `annex worker --port 8000`.
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=2)"]
# SIGTERM: streams are told to reconnect elsewhere, then the process ends.
CMD ["annex", "serve", "--host", "0.0.0.0"]
