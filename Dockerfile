# One image for every service; the command says which. State is in /data: keys, models, logs.
FROM python:3.13-slim

# A font, for the pictures of a backtest's report.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends fonts-dejavu-core \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /app
RUN useradd --uid 10001 --create-home driftline \
    && install --directory --owner=driftline --group=driftline /data

# Libraries first: they change less often than the code, so their layer is reused.
COPY requirements.txt ./
RUN pip install --no-cache-dir --require-hashes --requirement requirements.txt

COPY pyproject.toml README.md LICENSE ./
COPY driftline driftline
COPY driftline_app driftline_app
COPY producers producers
COPY consumers consumers
COPY monitor monitor
COPY trainer trainer
RUN pip install --no-cache-dir --no-deps --no-build-isolation .

COPY examples examples

USER driftline
ENV DRIFTLINE_HOME=/data PYTHONUNBUFFERED=1
VOLUME /data
ENTRYPOINT ["driftline"]
CMD ["--help"]
