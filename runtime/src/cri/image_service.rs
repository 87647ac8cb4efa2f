//! Which handler serves which RPC of `ImageService`.

use bulkhead_cri_api::v1::{image_service_server::ImageService, *};
use tonic::Request;

use super::{
    Cri, Reply, chunks::Answers, image_fs_info, image_status, list_images, pull_image,
    remove_image, reply, stream_images,
};

#[tonic::async_trait]
impl ImageService for Cri {
    async fn list_images(&self, request: Request<ListImagesRequest>) -> Reply<ListImagesResponse> {
        reply(
            "ListImages",
            list_images::list_images(self, request.into_inner()),
        )
        .await
    }

    async fn image_status(
        &self,
        request: Request<ImageStatusRequest>,
    ) -> Reply<ImageStatusResponse> {
        reply(
            "ImageStatus",
            image_status::image_status(self, request.into_inner()),
        )
        .await
    }

    async fn pull_image(&self, request: Request<PullImageRequest>) -> Reply<PullImageResponse> {
        reply(
            "PullImage",
            pull_image::pull_image(self, request.into_inner()),
        )
        .await
    }

    async fn remove_image(
        &self,
        request: Request<RemoveImageRequest>,
    ) -> Reply<RemoveImageResponse> {
        reply(
            "RemoveImage",
            remove_image::remove_image(self, request.into_inner()),
        )
        .await
    }

    async fn image_fs_info(
        &self,
        request: Request<ImageFsInfoRequest>,
    ) -> Reply<ImageFsInfoResponse> {
        reply(
            "ImageFsInfo",
            image_fs_info::image_fs_info(self, request.into_inner()),
        )
        .await
    }

    type StreamImagesStream = Answers<StreamImagesResponse>;
    async fn stream_images(
        &self,
        request: Request<StreamImagesRequest>,
    ) -> Reply<Self::StreamImagesStream> {
        reply(
            "StreamImages",
            stream_images::stream_images(self, request.into_inner()),
        )
        .await
    }
}
