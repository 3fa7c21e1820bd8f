// CUDA's own file of this name says which compilers nvcc takes for the host. Here is no nvcc; see
// host_defines.h.
#ifndef KANDINSKY_CMAKE_CUDA_HEADERS_CRT_HOST_CONFIG_H_
#define KANDINSKY_CMAKE_CUDA_HEADERS_CRT_HOST_CONFIG_H_

#include "cmake/cuda_headers/crt/host_defines.h"

#endif  // KANDINSKY_CMAKE_CUDA_HEADERS_CRT_HOST_CONFIG_H_
