# A release sets the digest of this image, so that every build has the same base:
# --build-arg PYTHON_DIGEST=sha256:…
ARG PYTHON_DIGEST
FROM python:3.13.14-slim-trixie${PYTHON_DIGEST:+@$PYTHON_DIGEST}

ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOST=0.0.0.0

WORKDIR /srv
COPY requirements.txt .
RUN pip install --no-cache-dir --require-hashes -r requirements.txt

COPY app app
COPY clients clients
COPY wsgi.py gunicorn.conf.py LICENSE ./
# Or each process compiles the app when it starts: its user may write no bytecode here. The hashes
# of the sources say whether it fits them, since some builders change the times of files.
RUN python -m compileall -q --invalidation-mode checked-hash app wsgi.py
# As a number, so that an orchestrator can see that it is not root's.
RUN mkdir .data && chown 10001:10001 .data
USER 10001:10001

# Give REDIS_URL. Without it the container runs a server of its own, with its data here.
VOLUME /srv/.data
EXPOSE 8082
# http.client knows no HTTP_PROXY.
HEALTHCHECK --interval=10s --timeout=3s \
    CMD python -c "import http.client as h, os, sys; c = h.HTTPConnection('127.0.0.1', os.environ.get('PORT') or 8082); c.request('GET', '/healthz'); sys.exit(c.getresponse().status != 200)"
CMD ["python", "-m", "app"]
