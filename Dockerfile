# Builds a static binary and an image that holds nothing else: no shell, no libraries, no root.
FROM rust:1-alpine AS build
RUN apk add --no-cache build-base
WORKDIR /src
COPY . .
RUN cargo build --locked --release -p leveret \
    && cp target/release/leveret /leveret \
    && mkdir /data

FROM scratch
COPY --from=build /leveret /leveret
COPY --from=build --chown=10001:10001 --chmod=0700 /data /data
USER 10001:10001
ENV LEVERET_DATA_DIR=/data
VOLUME /data
# AMQP, AMQP over TLS, HTTP.
EXPOSE 5672 5671 15672
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s CMD ["/leveret", "health"]
ENTRYPOINT ["/leveret"]
