# syntax=docker/dockerfile:1
# A static binary on an image without a shell, for every platform that Go builds for. The build line is the Makefile's, so
# that what is tested is what ships.
FROM --platform=$BUILDPLATFORM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG TARGETOS TARGETARCH VERSION=devel
RUN GOOS=$TARGETOS GOARCH=$TARGETARCH make bin/manager VERSION=$VERSION

FROM gcr.io/distroless/static:nonroot
COPY --from=build /src/bin/manager /manager
USER 65532:65532
ENTRYPOINT ["/manager"]
