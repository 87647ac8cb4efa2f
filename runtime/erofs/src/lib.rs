//! Streaming writer of EROFS images from layer tarballs.
