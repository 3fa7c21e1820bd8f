// What CUDA's headers for the host mark declarations with, for g++. The nvidia packages that a
// LibTorch wheel brings have all headers of the CUDA runtime but those of the folder crt, which
// belong to the compiler nvcc. Code for the host needs nothing of them but these marks: the host's
// compiler knows no code for a device, so there most of them are empty. Used where the wheel has no
// such folder.
#ifndef KANDINSKY_CMAKE_CUDA_HEADERS_CRT_HOST_DEFINES_H_
#define KANDINSKY_CMAKE_CUDA_HEADERS_CRT_HOST_DEFINES_H_

#define CUDARTAPI
#define CUDARTAPI_CDECL
#define CUDAAPI
#define __align__(n) __attribute__((aligned(n)))
#define __builtin_align__(n) __align__(n)
#define __location__(place)
#define __device_builtin__
#define __device_builtin_texture_type__
#define __device_builtin_surface_type__
#define __cudart_builtin__
#define __host__
#define __device__
#define __global__
#define __shared__
#define __constant__
#define __managed__
#define __forceinline__ inline __attribute__((always_inline))

#endif  // KANDINSKY_CMAKE_CUDA_HEADERS_CRT_HOST_DEFINES_H_
