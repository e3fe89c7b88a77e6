# docker build -t llm-proxy .
# docker run --env-file .env -p 8000:8000 --stop-timeout 30 llm-proxy
#
# Without --stop-timeout Docker kills 10 seconds after SIGTERM. Give it more than GRACEFUL_TIMEOUT (25),
# so that open answers can finish. The container also runs with --read-only.

FROM python:3.13-slim AS build
COPY requirements.txt ./
RUN python -m venv /venv \
    && /venv/bin/python -m pip install --no-cache-dir --no-deps --require-hashes -r requirements.txt

FROM python:3.13-slim
# With PORT the proxy listens on all addresses. gunicorn touches a file each second to show that a
# worker is alive: in memory, where no disk can hold it up.
ENV PATH=/venv/bin:$PATH \
    PORT=8000 \
    TMPDIR=/dev/shm \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
COPY --from=build /venv /venv
WORKDIR /srv
COPY app.py gunicorn.conf.py ./
COPY proxy ./proxy/
# A number, so that Kubernetes can see that it is not root.
USER 65534:65534
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=15s \
    CMD ["python", "-c", "import os, urllib.request as r; r.build_opener(r.ProxyHandler({})).open('http://127.0.0.1:' + os.environ['PORT'] + '/healthz', timeout=4)"]
CMD ["gunicorn", "app:app"]
