# LibTorch as `pip` installed it in KANDINSKY_VENV_DIR. Any wheel of the pinned version will do, for the CPU or for CUDA;
# neither a CUDA toolkit nor a driver is needed to configure, build or start. The wheel's own CMake files are not used:
# those of a CUDA wheel ask for a whole toolkit, and they define protobuf targets with headers of their own.
#
#   kandinsky_torch        headers and libraries; what every target with LibTorch links
#   kandinsky_torch_cuda   the same for files that call CUDA themselves. Defines KANDINSKY_WITH_CUDA to 1 or 0. With a
#                          CUDA wheel it adds the headers and the runtime library of the nvidia packages (cuda_runtime.h,
#                          cublas, nccl) and, where NCCL is among them, USE_C10D_NCCL; with a CPU wheel nothing else.
#                          The packages nvidia-cuda-crt and nvidia-cuda-cccl, which pip does not bring along and
#                          deploy/local/setup does, complete the headers; without them cmake/cuda_headers stands in, and
#                          NCCL is left out.
#   KANDINSKY_TORCH_CUDA   TRUE for a CUDA wheel; a result, not an option
#   KANDINSKY_TORCH_BUILD  the wheel's version with its variant, for example 2.13.0+cpu
#
# Stops with an error that says what to do when the environment has no LibTorch, another version than the pinned one, or
# a build that this compiler's std::string does not fit.
set(_libtorch_pins "${CMAKE_CURRENT_LIST_DIR}/../deploy/local/requirements.txt")
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS "${_libtorch_pins}")
file(STRINGS "${_libtorch_pins}" _pin REGEX "^torch==")
string(REGEX REPLACE "^torch==([0-9.]+).*" "\\1" _pin "${_pin}")
set(KANDINSKY_TORCH_VERSION "${_pin}" CACHE STRING "Version of LibTorch that is built against; the pinned one by default")

set(_remedy "Run deploy/local/setup, or name another virtual environment with -DKANDINSKY_VENV_DIR=DIR.")

# --- where the wheel is
set(_python "${KANDINSKY_VENV_DIR}/bin/python")
if(NOT EXISTS "${_python}")
  message(FATAL_ERROR "There is no virtual environment in ${KANDINSKY_VENV_DIR} (no bin/python). ${_remedy}")
endif()
execute_process(COMMAND "${_python}" -I -c "import sysconfig; print(sysconfig.get_path('platlib'))"
  OUTPUT_VARIABLE _packages ERROR_VARIABLE _error RESULT_VARIABLE _result OUTPUT_STRIP_TRAILING_WHITESPACE)
if(NOT _result EQUAL 0 OR NOT IS_DIRECTORY "${_packages}")
  message(FATAL_ERROR "${_python} does not run or has no packages (${_result}): ${_error}\n"
    "The Python that it was made with may be gone. Remove ${KANDINSKY_VENV_DIR}, then: ${_remedy}")
endif()
set(_torch "${_packages}/torch")
if(NOT EXISTS "${_torch}/version.py")
  message(FATAL_ERROR "There is no LibTorch in ${_packages} (no torch/version.py). ${_remedy}")
endif()
# Another wheel in the same place: configure again.
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS "${_torch}/version.py")

# --- what it is
file(READ "${_torch}/version.py" _version_py)
function(_libtorch_field name variable)
  if(_version_py MATCHES "(^|\n)${name}[^\n=]*= *'([^'\n]*)'")
    set(${variable} "${CMAKE_MATCH_2}" PARENT_SCOPE)
  else()
    set(${variable} "" PARENT_SCOPE)
  endif()
endfunction()
_libtorch_field(__version__ KANDINSKY_TORCH_BUILD)
_libtorch_field(cuda _cuda_version)
_libtorch_field(hip _hip_version)
_libtorch_field(xpu _xpu_version)
string(REGEX REPLACE "\\+.*" "" _version "${KANDINSKY_TORCH_BUILD}")
if(NOT _version STREQUAL KANDINSKY_TORCH_VERSION)
  message(FATAL_ERROR "LibTorch in ${_packages} is \"${KANDINSKY_TORCH_BUILD}\", but this project is built against ${KANDINSKY_TORCH_VERSION}. "
    "${_remedy} To try another version all the same: -DKANDINSKY_TORCH_VERSION=${_version}.")
endif()
if(_hip_version OR _xpu_version)
  message(FATAL_ERROR "LibTorch in ${_packages} is \"${KANDINSKY_TORCH_BUILD}\", a build for ROCm or XPU; builds for the CPU and for CUDA are supported. ${_remedy}")
endif()
if(_cuda_version)
  set(KANDINSKY_TORCH_CUDA TRUE)
  set(_names torch torch_cpu torch_cuda c10 c10_cuda)
else()
  set(KANDINSKY_TORCH_CUDA FALSE)
  set(_names torch torch_cpu c10)
endif()
foreach(_file include/ATen/ATen.h include/torch/csrc/api/include/torch/torch.h)
  if(NOT EXISTS "${_torch}/${_file}")
    message(FATAL_ERROR "LibTorch in ${_packages} is incomplete: torch/${_file} is missing. Remove ${KANDINSKY_VENV_DIR}, then: ${_remedy}")
  endif()
endforeach()

# --- the libraries
set(_targets)
foreach(_name IN LISTS _names)
  set(_file "${_torch}/lib/lib${_name}.so")
  if(NOT EXISTS "${_file}")
    message(FATAL_ERROR "LibTorch ${KANDINSKY_TORCH_BUILD} in ${_packages} is incomplete: torch/lib/lib${_name}.so is missing. "
      "Remove ${KANDINSKY_VENV_DIR}, then: ${_remedy}")
  endif()
  add_library(kandinsky_lib${_name} SHARED IMPORTED)
  set_target_properties(kandinsky_lib${_name} PROPERTIES IMPORTED_LOCATION "${_file}" IMPORTED_SONAME "lib${_name}.so")
  list(APPEND _targets kandinsky_lib${_name})
endforeach()
# std::string in an exported name: as g++ has it since version 5, or as before.
file(STRINGS "${_torch}/lib/libc10.so" _abi REGEX "_ZN3c10.*NSt7__cxx1112basic_string" LIMIT_COUNT 1)
if(NOT _abi)
  message(FATAL_ERROR "LibTorch ${KANDINSKY_TORCH_BUILD} in ${_packages} is built with the C++ ABI of before g++ 5 "
    "(_GLIBCXX_USE_CXX11_ABI=0), which nothing else here is. ${_remedy}")
endif()

# All of them are loaded, used or not: their constructors register the operators and devices.
set(CMAKE_CXX_LINK_LIBRARY_USING_kandinsky_loaded_SUPPORTED TRUE)
set(CMAKE_CXX_LINK_LIBRARY_USING_kandinsky_loaded
  "LINKER:--push-state,--no-as-needed" "<LINK_ITEM>" "LINKER:--pop-state")
list(JOIN _targets "," _targets)
add_library(kandinsky_torch INTERFACE)
target_link_libraries(kandinsky_torch INTERFACE kandinsky_flags "$<LINK_LIBRARY:kandinsky_loaded,${_targets}>")
target_link_options(kandinsky_torch INTERFACE LINKER:--as-needed)
# No program spins without bound, whoever links it: worker/process/bounded_spin.h.
target_link_libraries(kandinsky_torch INTERFACE kandinsky_bounded_spin)
target_link_options(kandinsky_torch INTERFACE LINKER:--undefined=kandinsky_bounded_spin)
target_include_directories(kandinsky_torch SYSTEM INTERFACE "${_torch}/include" "${_torch}/include/torch/csrc/api/include")
# What the wheel was built with and its headers ask for.
target_compile_definitions(kandinsky_torch INTERFACE USE_C10D_GLOO USE_DISTRIBUTED USE_RPC USE_TENSORPIPE)

# --- CUDA, from the wheel's nvidia packages
add_library(kandinsky_torch_cuda INTERFACE)
target_link_libraries(kandinsky_torch_cuda INTERFACE kandinsky_torch)
if(KANDINSKY_TORCH_CUDA)
  file(GLOB _cuda_lib_dirs "${_packages}/nvidia/*/lib")
  file(GLOB _cuda_runtime "${_packages}/nvidia/*/lib/libcudart.so.*")
  file(GLOB _cuda_headers "${_packages}/nvidia/*/include/cuda_runtime_api.h")
  file(GLOB _crt_headers "${_packages}/nvidia/*/include/crt/host_defines.h")
  file(GLOB _cccl_headers "${_packages}/nvidia/*/include/nv/target")
  file(GLOB _nccl_headers "${_packages}/nvidia/nccl/include/nccl.h")
  list(LENGTH _cuda_runtime _count)
  if(NOT _cuda_headers OR NOT _count EQUAL 1)
    message(FATAL_ERROR "LibTorch ${KANDINSKY_TORCH_BUILD} in ${_packages} came without the nvidia packages that it needs "
      "(no nvidia/*/include/cuda_runtime_api.h, or not one nvidia/*/lib/libcudart.so.*). Remove ${KANDINSKY_VENV_DIR}, then: ${_remedy}")
  endif()
  # The wheel's libraries find theirs themselves ($ORIGIN/../../nvidia); a linker that checks that wants to be told.
  foreach(_dir IN LISTS _cuda_lib_dirs)
    target_link_options(kandinsky_torch INTERFACE "LINKER:-rpath-link,${_dir}")
  endforeach()
  add_library(kandinsky_libcudart SHARED IMPORTED)
  get_filename_component(_soname "${_cuda_runtime}" NAME)
  set_target_properties(kandinsky_libcudart PROPERTIES IMPORTED_LOCATION "${_cuda_runtime}" IMPORTED_SONAME "${_soname}")
  get_filename_component(_dir "${_cuda_headers}" DIRECTORY)
  target_include_directories(kandinsky_torch_cuda SYSTEM INTERFACE "${_dir}")
  if(NOT _crt_headers)
    # LibTorch does not need their folder crt, so pip does not bring it; code for the host gets by with ours.
    target_include_directories(kandinsky_torch_cuda SYSTEM INTERFACE "${CMAKE_CURRENT_LIST_DIR}/cuda_headers")
  endif()
  target_link_libraries(kandinsky_torch_cuda INTERFACE kandinsky_libcudart)
  target_compile_definitions(kandinsky_torch_cuda INTERFACE KANDINSKY_WITH_CUDA=1)
  if(_nccl_headers AND _crt_headers AND _cccl_headers)
    target_include_directories(kandinsky_torch_cuda SYSTEM INTERFACE "${_packages}/nvidia/nccl/include")
    target_compile_definitions(kandinsky_torch_cuda INTERFACE USE_C10D_NCCL)
  else()
    message(STATUS "Training on several GPUs needs NCCL's headers and the packages nvidia-cuda-crt and nvidia-cuda-cccl, which deploy/local/setup installs: built without it")
  endif()
  message(STATUS "LibTorch ${KANDINSKY_TORCH_BUILD} for CUDA ${_cuda_version}: ${_torch}")
else()
  target_compile_definitions(kandinsky_torch_cuda INTERFACE KANDINSKY_WITH_CUDA=0)
  message(STATUS "LibTorch ${KANDINSKY_TORCH_BUILD} for the CPU: ${_torch}")
endif()
