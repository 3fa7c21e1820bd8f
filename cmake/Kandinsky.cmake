# Helper functions: every target of the project is made by one of them.
#
#   kandinsky_library(NAME n [SRCS …] [DEPS public…] [PRIVATE_DEPS …] [PCH torch|grpc])   -> target kandinsky_n
#   kandinsky_binary(NAME n SRCS … DEPS … [PCH …])                                         -> build/<preset>/bin/n
#   kandinsky_test(NAME n SRCS … DEPS … [LABELS …] [TIMEOUT seconds] [PCH …])              -> GoogleTest binary + ctest entry
#
# DEPS are linked PUBLIC, PRIVATE_DEPS PRIVATE. A library without SRCS is an INTERFACE library.

add_library(kandinsky_flags INTERFACE)
target_compile_features(kandinsky_flags INTERFACE cxx_std_20)
target_compile_options(kandinsky_flags INTERFACE -Wall -Wextra -Wno-unused-parameter -Wno-missing-field-initializers)
target_include_directories(kandinsky_flags INTERFACE ${CMAKE_SOURCE_DIR})
target_link_options(kandinsky_flags INTERFACE -fuse-ld=mold)
# A sanitizer makes everything slower; tests that start processes run under the script, which fails when any of these
# processes reports something: add_test(NAME n COMMAND ${KANDINSKY_PROCESS_TEST} command…).
set(_kandinsky_timeout_factor 1)
set(KANDINSKY_PROCESS_TEST)
if(KANDINSKY_SANITIZE)
  target_compile_options(kandinsky_flags INTERFACE -fsanitize=${KANDINSKY_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all)
  target_link_options(kandinsky_flags INTERFACE -fsanitize=${KANDINSKY_SANITIZE})
  if(KANDINSKY_SANITIZE MATCHES undefined AND CMAKE_CXX_COMPILER_ID STREQUAL GNU)
    # GCC's shared libubsan knows no log_path, which tests/support/sanitized needs.
    target_link_options(kandinsky_flags INTERFACE -static-libubsan)
  endif()
  set(_kandinsky_timeout_factor 5)
  set(KANDINSKY_PROCESS_TEST ${CMAKE_SOURCE_DIR}/tests/support/sanitized)
endif()

# Precompiled headers are built once per kind and reused by every target that asks for them.
function(_kandinsky_use_pch target kind)
  if(KANDINSKY_PRECOMPILED_HEADERS AND TARGET kandinsky_pch_${kind})
    target_precompile_headers(${target} REUSE_FROM kandinsky_pch_${kind})
    # The headers were compiled as for libraries; with -fPIE, as executables have it, the compiler would not use them.
    get_target_property(type ${target} TYPE)
    if(type STREQUAL EXECUTABLE)
      set_target_properties(${target} PROPERTIES POSITION_INDEPENDENT_CODE OFF)
      target_compile_options(${target} PRIVATE -fPIC)
    endif()
  endif()
endfunction()

# What every executable of the tsan preset has.
function(_kandinsky_for_tsan target)
  if(KANDINSKY_SANITIZE MATCHES thread)
    target_sources(${target} PRIVATE ${CMAKE_SOURCE_DIR}/tests/support/tsan_grpc.cc)
    set_source_files_properties(${CMAKE_SOURCE_DIR}/tests/support/tsan_grpc.cc PROPERTIES SKIP_PRECOMPILE_HEADERS ON)
    target_link_libraries(${target} PRIVATE ${CMAKE_DL_LIBS})
  endif()
endfunction()

function(kandinsky_library)
  cmake_parse_arguments(ARG "" "NAME;PCH" "SRCS;DEPS;PRIVATE_DEPS" ${ARGN})
  set(target kandinsky_${ARG_NAME})
  if(ARG_SRCS)
    add_library(${target} STATIC ${ARG_SRCS})
    target_link_libraries(${target} PUBLIC kandinsky_flags ${ARG_DEPS} PRIVATE ${ARG_PRIVATE_DEPS})
    if(ARG_PCH)
      _kandinsky_use_pch(${target} ${ARG_PCH})
    endif()
  else()
    add_library(${target} INTERFACE)
    target_link_libraries(${target} INTERFACE kandinsky_flags ${ARG_DEPS})
  endif()
endfunction()

function(kandinsky_binary)
  cmake_parse_arguments(ARG "" "NAME;PCH" "SRCS;DEPS" ${ARGN})
  add_executable(${ARG_NAME} ${ARG_SRCS})
  target_link_libraries(${ARG_NAME} PRIVATE kandinsky_flags ${ARG_DEPS})
  set_target_properties(${ARG_NAME} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
  _kandinsky_for_tsan(${ARG_NAME})
  if(ARG_PCH)
    _kandinsky_use_pch(${ARG_NAME} ${ARG_PCH})
  endif()
endfunction()

function(kandinsky_test)
  if(NOT KANDINSKY_BUILD_TESTS)
    return()
  endif()
  cmake_parse_arguments(ARG "" "NAME;PCH;TIMEOUT" "SRCS;DEPS;LABELS" ${ARGN})
  add_executable(${ARG_NAME} ${ARG_SRCS})
  target_link_libraries(${ARG_NAME} PRIVATE kandinsky_flags ${ARG_DEPS} GTest::gmock GTest::gtest GTest::gtest_main)
  target_compile_definitions(${ARG_NAME} PRIVATE KANDINSKY_SOURCE_DIR="${CMAKE_SOURCE_DIR}" KANDINSKY_BIN_DIR="${CMAKE_BINARY_DIR}/bin")
  set_target_properties(${ARG_NAME} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
  _kandinsky_for_tsan(${ARG_NAME})
  if(ARG_PCH)
    _kandinsky_use_pch(${ARG_NAME} ${ARG_PCH})
  endif()
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 120)
  endif()
  if(NOT ARG_LABELS)
    set(ARG_LABELS unit)
  endif()
  math(EXPR ARG_TIMEOUT "${ARG_TIMEOUT} * ${_kandinsky_timeout_factor}")
  add_test(NAME ${ARG_NAME} COMMAND ${ARG_NAME})
  set_tests_properties(${ARG_NAME} PROPERTIES LABELS "${ARG_LABELS}" TIMEOUT ${ARG_TIMEOUT})
endfunction()
