# One image for the web server, the workers, the relay and the migrations of the demo project.
FROM python:3.13-slim AS build
WORKDIR /src
RUN python -m venv /venv
COPY pyproject.toml README.md LICENSE ./
COPY signalq signalq
# Wheels only: the image has no compiler, and none is needed.
RUN /venv/bin/pip install --no-cache-dir --disable-pip-version-check --only-binary=:all: '.[demo]'

FROM python:3.13-slim
# DEMO_DIR is the one place that the project writes to.
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
