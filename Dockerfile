# The server, built from source. `docker build -t tallyflow .`

FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --release --locked -p tallyflow

FROM debian:bookworm-slim
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin tallyflow \
    && install -d -o tallyflow -g tallyflow /data
COPY --from=build /src/target/release/tallyflow /usr/local/bin/tallyflow
USER tallyflow
# In a container the loopback interface is the container's own: whoever publishes the port decides who
# reaches it. There is no authentication.
ENV TALLYFLOW_LISTEN=0.0.0.0:8080 \
    TALLYFLOW_DATA_DIR=/data
VOLUME /data
EXPOSE 8080
# The image has no curl: the program asks itself. Status 1 where no server answers.
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s --retries=3 \
    CMD ["tallyflow", "jobs", "--format", "json", "--server", "http://127.0.0.1:8080"]
ENTRYPOINT ["tallyflow"]
CMD ["serve"]
