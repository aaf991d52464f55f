# The program alone, for a machine with Docker: docker build -t mongosync .

FROM rust:1.95-slim-bookworm AS build
RUN apt-get update \
 && apt-get install -y --no-install-recommends build-essential \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /build
COPY . .
RUN cargo build --locked --profile dist --bin mongosync

FROM debian:bookworm-slim
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --system --uid 10001 --home-dir /nonexistent --shell /usr/sbin/nologin mongosync
COPY --from=build /build/target/dist/mongosync /usr/local/bin/mongosync
USER 10001
# The status server; beyond the container it takes `http: { listen: 0.0.0.0:7800, token: … }`.
EXPOSE 7800
ENTRYPOINT ["mongosync"]
CMD ["--help"]
