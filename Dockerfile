# One image for the web server, the workers, the relay, the migrations and Flower of the demo project.
FROM python:3.13-slim AS build
WORKDIR /src
RUN python -m venv /venv
# Wheels only: the image has no compiler, and none is needed.
ENV PIP_ONLY_BINARY=:all: PIP_DISABLE_PIP_VERSION_CHECK=1
# What signalq depends on has a layer of its own, so that a change of the code does not install it again.
COPY pyproject.toml README.md LICENSE pytest_signalq.py ./
COPY signalq/__init__.py signalq/
RUN --mount=type=cache,target=/root/.cache/pip /venv/bin/pip install '.[stack]'
COPY signalq signalq
RUN --mount=type=cache,target=/root/.cache/pip /venv/bin/pip install --no-deps --force-reinstall .

FROM python:3.13-slim
# DEMO_DIR is the one place that the project would write to.
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 DEMO_DIR=/data
RUN useradd --system --uid 10001 --user-group app && install -d -o app -g app /data
COPY --from=build /venv /venv
WORKDIR /app
COPY worker worker
COPY project project
USER app
EXPOSE 8000
# One process with threads: see project/server.py.
CMD ["gunicorn", "--config=python:project.server", "project.wsgi", "--bind=0.0.0.0:8000"]
